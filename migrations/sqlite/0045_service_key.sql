-- One row: which service key the pseudonyms are under. Another one would find nobody.
CREATE TABLE service_key (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32)
) STRICT;
