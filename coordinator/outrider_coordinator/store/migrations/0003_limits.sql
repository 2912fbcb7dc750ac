-- Named limits that somebody defined. Who holds them follows from the attempts.
CREATE TABLE limits (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    kind INTEGER NOT NULL,
    capacity INTEGER NOT NULL,
    per_second REAL NOT NULL,
    burst INTEGER NOT NULL,
    full_us INTEGER NOT NULL,
    taken_us INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
