-- The choice was last said at some time from said - span on, to said: whoever told
-- of it may count in seconds, or have a clock that is wrong.
ALTER TABLE preference ADD COLUMN span INTEGER NOT NULL DEFAULT 0;
