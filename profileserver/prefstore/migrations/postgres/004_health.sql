-- A row that is written to see whether anything can be.
CREATE TABLE metrics_gate.health (
	one boolean NOT NULL PRIMARY KEY CHECK (one), -- there is one row
	at  bigint  NOT NULL                          -- milliseconds since 1970, UTC
) WITH (fillfactor = 10);
INSERT INTO metrics_gate.health (one, at) VALUES (true, 0);
