-- Version 2 had no sums. They are taken of what is there when the run is next opened (run/kept.py).

CREATE TABLE sums (
    name TEXT NOT NULL,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (name, file)
) WITHOUT ROWID;
