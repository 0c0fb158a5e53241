-- no-transaction: no query is answered from it any more.
drop index concurrently if exists audit_by_instance;
