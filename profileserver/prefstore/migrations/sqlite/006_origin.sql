-- Which store this is. What was counted here, and is moved to another store and
-- perhaps back, is known by it, so that it counts once.
CREATE TABLE origin (
	one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), -- there is one row
	id  BLOB    NOT NULL
) STRICT;
INSERT INTO origin (one, id) VALUES (1, randomblob(16));

-- What other stores counted, whose preferences were moved here; and which users
-- two of them had counted, or one and this, by the store that noticed. Both only
-- grow.
CREATE TABLE daily_moved (
	origin BLOB    NOT NULL,
	day    TEXT    NOT NULL,
	users  INTEGER NOT NULL, -- that the store counted
	twice  INTEGER NOT NULL, -- that the store noticed, and that count once too often
	PRIMARY KEY (origin, day)
) STRICT, WITHOUT ROWID;

-- The store that counted the user, unless it is this one.
ALTER TABLE counted ADD COLUMN origin BLOB;
