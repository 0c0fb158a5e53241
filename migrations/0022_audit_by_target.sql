-- no-transaction: an instance's entries by what it was done to.
create index concurrently if not exists audit_by_target on audit (instance, target, time, id, actor, action);
