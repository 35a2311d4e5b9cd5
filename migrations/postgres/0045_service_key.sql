-- One row: which service key the pseudonyms are under. Another one would find nobody.
CREATE TABLE service_key (
    id BIGINT PRIMARY KEY CHECK (id = 0),
    fingerprint BYTEA NOT NULL CHECK (octet_length(fingerprint) = 32)
);
