-- no-transaction: an instance's entries in the order of time; the primary key, which has all instances' entries, cannot answer in this order.
create index concurrently if not exists audit_of_instance on audit (instance, time, id);
