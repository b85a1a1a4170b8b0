-- What keys the tags that name states of accounts, and the hashes of events and of
-- deleted accounts: without it, a hash is soon guessed whose text is as good as
-- known.
CREATE TABLE secret (
	one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), -- there is one row
	key BLOB    NOT NULL
) STRICT;
INSERT INTO secret (one, key) VALUES (1, randomblob(32));

-- From now on SHA-256 of the key and of what was kept so far.
UPDATE deleted SET uid_hash = metrics_gate_sha256((SELECT key FROM secret), uid_hash);
UPDATE event SET jti_hash = metrics_gate_sha256((SELECT key FROM secret), jti_hash);
