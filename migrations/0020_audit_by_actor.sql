-- no-transaction: an instance's entries by who made them; what stands behind id is compared without reading the rows.
create index concurrently if not exists audit_by_actor on audit (instance, actor, time, id, action, target);
