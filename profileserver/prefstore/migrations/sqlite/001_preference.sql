-- The preference of every account that ever made a choice. An account without
-- a row holds null.
CREATE TABLE preference (
	uid        TEXT    NOT NULL PRIMARY KEY,
	preference INTEGER CHECK (preference IN (0, 1)), -- metrics_optout; NULL: no choice
	changed    INTEGER NOT NULL,                     -- milliseconds since 1970, UTC
	source     TEXT    NOT NULL                      -- where the change came from
) STRICT, WITHOUT ROWID;
