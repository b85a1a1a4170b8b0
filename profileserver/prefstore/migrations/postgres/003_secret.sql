-- What keys the tags that name states of accounts, and the hashes of events and of
-- deleted accounts: without it, a hash is soon guessed whose text is as good as
-- known. Both uuids are of PostgreSQL's strong random numbers.
CREATE TABLE metrics_gate.secret (
	one boolean NOT NULL PRIMARY KEY CHECK (one), -- there is one row
	key bytea   NOT NULL
);
INSERT INTO metrics_gate.secret (one, key)
	VALUES (true, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- From now on SHA-256 of the key and of what was kept so far.
UPDATE metrics_gate.deleted SET uid_hash = sha256(key || uid_hash) FROM metrics_gate.secret;
UPDATE metrics_gate.event SET jti_hash = sha256(key || jti_hash) FROM metrics_gate.secret;
