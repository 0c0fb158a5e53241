-- no-transaction: all entries by who made them, for operators.
create index concurrently if not exists audit_of_all_by_actor on audit (actor, time, id, action, target, instance);
