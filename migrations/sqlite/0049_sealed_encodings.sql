-- A version's encoder and classes, words of samples among them, are sealed under the master key and go
-- with the version's weights. The service seals those of before as it brings the schema up to date.
ALTER TABLE versions ADD COLUMN encoding BLOB;

CREATE TABLE unsealed_encodings (
    model_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    encoder TEXT NOT NULL,
    classes TEXT NOT NULL,
    PRIMARY KEY (model_id, epoch)
) STRICT;

INSERT INTO unsealed_encodings (model_id, epoch, encoder, classes)
SELECT model_id, epoch, encoder, classes FROM versions WHERE weights_removed_at IS NULL;

ALTER TABLE versions DROP COLUMN encoder;
ALTER TABLE versions DROP COLUMN classes;
