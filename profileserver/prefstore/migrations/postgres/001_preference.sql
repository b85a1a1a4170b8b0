-- The preference of every account that ever made a choice. An account without
-- a row holds null. A uid is bytes, so that any is kept as it is, in whatever
-- encoding the database is: convert_from(uid, 'UTF8') shows it.
CREATE TABLE metrics_gate.preference (
	uid        bytea   NOT NULL PRIMARY KEY,
	preference boolean,          -- metrics_optout; NULL: no choice
	changed    bigint  NOT NULL, -- milliseconds since 1970, UTC
	said       bigint  NOT NULL, -- when the choice was last said; the same one may be said again
	source     text    NOT NULL, -- where the change came from
	seq        bigint  NOT NULL  -- the number of the row's last change
);
CREATE INDEX preference_seq ON metrics_gate.preference (seq);

-- Each change of a preference, and each deletion of an account, takes the next
-- number. Whoever writes locks this row first, so the numbers come in the
-- order of the commits, and without gaps. The free space lets the row be
-- written over and over on one page.
CREATE TABLE metrics_gate.feed (
	one  boolean NOT NULL PRIMARY KEY CHECK (one), -- there is one row
	head bigint  NOT NULL
) WITH (fillfactor = 10);
INSERT INTO metrics_gate.feed (one, head) VALUES (true, 0);

-- The accounts that were deleted in the last days, so that what was under way
-- then does not bring them back.
CREATE TABLE metrics_gate.deleted (
	uid_hash bytea  NOT NULL PRIMARY KEY, -- SHA-256
	at       bigint NOT NULL              -- milliseconds since 1970, UTC
);
CREATE INDEX deleted_at ON metrics_gate.deleted (at);

-- How many users recorded an opt-out on a day (UTC), and who they are on the
-- current one, so that each is counted once. Nobody is kept longer.
CREATE TABLE metrics_gate.daily (
	day   date   NOT NULL PRIMARY KEY,
	users bigint NOT NULL
);
CREATE TABLE metrics_gate.counted (
	uid bytea NOT NULL PRIMARY KEY,
	day date  NOT NULL
);
CREATE INDEX counted_day ON metrics_gate.counted (day);

-- The security events of the last days, so that none counts twice.
CREATE TABLE metrics_gate.event (
	jti_hash bytea  NOT NULL PRIMARY KEY, -- SHA-256
	seen     bigint NOT NULL              -- milliseconds since 1970, UTC
);
CREATE INDEX event_seen ON metrics_gate.event (seen);
