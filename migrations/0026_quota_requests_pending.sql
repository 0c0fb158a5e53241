-- no-transaction: requests that wait for a decision, which are counted before each new one.
create index concurrently if not exists quota_requests_pending on quota_requests (instance) where status = 'pending';
