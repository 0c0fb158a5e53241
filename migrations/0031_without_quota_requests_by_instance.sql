-- no-transaction: no query is answered from it any more.
drop index concurrently if exists quota_requests_by_instance;
