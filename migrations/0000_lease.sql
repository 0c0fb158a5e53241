-- Who holds the database, and who stands by. Applied before all others and by itself: its number is the lowest there is.

create table lease (
    only_row boolean primary key default true constraint lease_only_row check (only_row),
    term bigint not null,
    holder uuid not null,
    place text,
    renewed_at timestamptz not null,
    given_back boolean not null,
    constraint lease_term_positive check (term >= 1)
);
comment on table lease is 'One row once there was a holder. Over when it was given back, or not renewed for 5 seconds.';
comment on column lease.term is 'One unbroken memory of messages: grows with every holder that has not the memory of the one before.';
comment on column lease.holder is 'Drawn at random by each process that takes it.';
comment on column lease.place is 'The boot of the host, and the locked file on it, of which only one process at a time can be the holder.';

create table standbys (
    id uuid not null,
    seen_at timestamptz not null,
    constraint standbys_pkey primary key (id)
);
comment on table standbys is 'Who would take the lease; each renews its row while it waits.';
