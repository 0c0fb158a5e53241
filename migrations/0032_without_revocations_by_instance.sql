-- no-transaction: no query is answered from it any more.
drop index concurrently if exists revocations_by_instance;
