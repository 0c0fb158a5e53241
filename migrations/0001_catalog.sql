-- Instances, their channels, their quota requests, and the record of who changed what.
-- Identifiers are collated "C": compared and ordered byte for byte, as the domain does.

create table catalog_version (
    only_row boolean primary key default true constraint catalog_version_only_row check (only_row),
    version bigint not null
);
comment on table catalog_version is 'One row: bumped by every change, and locked by it, so that changes are one after the other.';

insert into catalog_version (version) values (0);

create table instances (
    id text collate "C" not null,
    name text not null,
    enabled boolean not null,
    publish_roles text[] not null,
    origins text[] not null,
    limits jsonb not null,
    version bigint not null,
    constraint instances_pkey primary key (id),
    constraint instances_id_form check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    constraint instances_name_length check (octet_length(name) <= 200),
    constraint instances_limits_form check (jsonb_typeof(limits) = 'object'),
    constraint instances_version_positive check (version >= 1)
);
comment on column instances.limits is 'An object from the API''s limit names to integers.';

create table channels (
    instance text collate "C" not null,
    name text collate "C" not null,
    description text not null,
    enabled boolean not null,
    rules jsonb not null,
    publish_rules jsonb not null,
    payload_limit bigint,
    version bigint not null,
    constraint channels_pkey primary key (instance, name),
    constraint channels_instance_fkey foreign key (instance) references instances (id) on delete cascade,
    constraint channels_name_form check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' and upper(name) <> 'ALL'),
    constraint channels_description_length check (octet_length(description) <= 1000),
    constraint channels_rules_form check (jsonb_typeof(rules) = 'array' and jsonb_typeof(publish_rules) = 'array'),
    constraint channels_payload_limit_range check (payload_limit between 1 and 65536),
    constraint channels_version_positive check (version >= 1)
);
comment on column channels.rules is 'An array of {"effect": "allow"|"deny"} with exactly one of "user", "group", "everyone": true.';

create table quota_requests (
    instance text collate "C" not null,
    id uuid not null,
    limit_name text not null,
    current bigint not null,
    value bigint not null,
    reason text not null,
    status text not null default 'pending',
    requested_by text collate "C" not null,
    requested_at timestamptz not null default clock_timestamp(),
    decided_by text collate "C",
    decided_at timestamptz,
    note text,
    constraint quota_requests_pkey primary key (id),
    constraint quota_requests_instance_fkey foreign key (instance) references instances (id) on delete cascade,
    constraint quota_requests_value_range check (value between 1 and 4294967295),
    constraint quota_requests_status_known check (status in ('pending', 'approved', 'denied')),
    constraint quota_requests_decided_whole check (
        (status = 'pending') = (decided_by is null) and (decided_by is null) = (decided_at is null)
    )
);
comment on column quota_requests.id is 'A UUIDv7: its order is the order of time.';

create index quota_requests_by_instance on quota_requests (instance, id desc);

-- No foreign key: what was done outlives the instance it was done to.
create table audit (
    instance text collate "C",
    id uuid not null,
    time timestamptz not null default clock_timestamp(),
    actor text collate "C" not null,
    action text not null,
    target text not null,
    before jsonb,
    after jsonb,
    constraint audit_pkey primary key (id)
);
comment on column audit.id is 'A UUIDv7: its order is the order of time.';

create index audit_by_instance on audit (instance, id desc);
