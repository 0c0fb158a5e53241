-- no-transaction: an instance's entries by what was done.
create index concurrently if not exists audit_by_action on audit (instance, action, time, id, target, actor);
