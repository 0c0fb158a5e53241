-- no-transaction: all entries by what it was done to, for operators.
create index concurrently if not exists audit_of_all_by_target on audit (target, time, id, actor, action, instance);
