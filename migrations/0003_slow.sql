-- What a channel's slow receivers get.

alter table channels add column slow text not null default 'disconnect'
    constraint channels_slow_is_known check (slow in ('disconnect', 'latest'));
comment on column channels.slow is 'disconnect: closed with 4420 when there is no room; latest: only the newest message waits.';
