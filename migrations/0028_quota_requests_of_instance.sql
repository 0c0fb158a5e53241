-- no-transaction: an instance's requests, likewise.
create index concurrently if not exists quota_requests_of_instance on quota_requests (instance, requested_at, id);
