-- A row that is written to see whether anything can be.
CREATE TABLE health (
	one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), -- there is one row
	at  INTEGER NOT NULL                              -- milliseconds since 1970, UTC
) STRICT;
INSERT INTO health (one, at) VALUES (1, 0);
