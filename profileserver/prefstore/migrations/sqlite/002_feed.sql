-- Each change of a preference, and each deletion of an account, takes the next
-- number (feed.head). A row keeps the number of its last change, so that who
-- followed the changes up to one can be told what came after; a row from
-- before there were numbers has 0. Deletions leave nothing to be told later.
ALTER TABLE preference ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
-- When the choice was last said; the same one may be said again.
ALTER TABLE preference ADD COLUMN said INTEGER NOT NULL DEFAULT 0;
UPDATE preference SET said = changed;
CREATE INDEX preference_seq ON preference (seq);

CREATE TABLE feed (
	one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), -- there is one row
	head INTEGER NOT NULL
) STRICT;
INSERT INTO feed (one, head) VALUES (1, 0);

-- The accounts that were deleted in the last days, so that what was under way
-- then does not bring them back.
CREATE TABLE deleted (
	uid_hash BLOB    NOT NULL PRIMARY KEY, -- SHA-256
	at       INTEGER NOT NULL              -- milliseconds since 1970, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX deleted_at ON deleted (at);

-- How many users recorded an opt-out on a day (UTC), and who they are on the
-- current one, so that each is counted once. Nobody is kept longer.
CREATE TABLE daily (
	day   TEXT    NOT NULL PRIMARY KEY,
	users INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE counted (
	uid TEXT NOT NULL PRIMARY KEY,
	day TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX counted_day ON counted (day);

-- The security events of the last days, so that none counts twice.
CREATE TABLE event (
	jti_hash BLOB    NOT NULL PRIMARY KEY, -- SHA-256
	seen     INTEGER NOT NULL              -- milliseconds since 1970, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX event_seen ON event (seen);
