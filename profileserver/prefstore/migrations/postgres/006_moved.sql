-- Which store this is. What was counted here, and is moved to another store and
-- perhaps back, is known by it, so that it counts once.
CREATE TABLE metrics_gate.origin (
	one boolean NOT NULL PRIMARY KEY CHECK (one), -- there is one row
	id  bytea   NOT NULL
);
INSERT INTO metrics_gate.origin (one, id) VALUES (true, uuid_send(gen_random_uuid()));

-- What other stores counted, whose preferences were moved here; and which users
-- two of them had counted, or one and this, by the store that noticed. Both only
-- grow.
CREATE TABLE metrics_gate.daily_moved (
	origin bytea  NOT NULL,
	day    date   NOT NULL,
	users  bigint NOT NULL, -- that the store counted
	twice  bigint NOT NULL, -- that the store noticed, and that count once too often
	PRIMARY KEY (origin, day)
);

-- The store that counted the user, unless it is this one.
ALTER TABLE metrics_gate.counted ADD COLUMN origin bytea;
