-- no-transaction: an instance's revocations, likewise.
create index concurrently if not exists revocations_of_instance on revocations (instance, created_at, id);
