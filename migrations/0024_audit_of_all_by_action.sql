-- no-transaction: all entries by what was done, for operators.
create index concurrently if not exists audit_of_all_by_action on audit (action, time, id, target, actor, instance);
