-- Tokens that an instance no longer accepts, until they would have expired anyway.

create table revocations (
    instance text collate "C" not null,
    id uuid not null,
    token_id text collate "C",
    expires_at timestamptz,
    user_id text collate "C",
    issued_before timestamptz,
    ends_at timestamptz not null,
    created_by text collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint revocations_pkey primary key (id),
    constraint revocations_instance_fkey foreign key (instance) references instances (id) on delete cascade,
    constraint revocations_token_once unique (instance, token_id),
    constraint revocations_user_once unique (instance, user_id),
    constraint revocations_of_one_kind check (
        (token_id is null) = (expires_at is null) and (user_id is null) = (issued_before is null)
        and (token_id is null) <> (user_id is null)
    )
);
comment on column revocations.id is 'A UUIDv7: its order is the order of time.';
comment on column revocations.ends_at is 'When every token that it concerns has expired; then the row is deleted.';

create index revocations_by_instance on revocations (instance, id desc);
create index revocations_by_end on revocations (ends_at);
