-- What tells one change from another of the same number, as after a failover to an older copy.

alter table catalog_version add column marks uuid[] not null default '{}';
comment on column catalog_version.marks is 'Drawn at random by the last 64 changes, the newest first.';
