-- A version's encoder and classes, words of samples among them, are sealed under the master key and go
-- with the version's weights. The service seals those of before as it brings the schema up to date.
ALTER TABLE versions ADD COLUMN encoding BYTEA;

CREATE TABLE unsealed_encodings (
    model_id UUID NOT NULL,
    epoch BIGINT NOT NULL,
    encoder JSONB NOT NULL,
    classes JSONB NOT NULL,
    PRIMARY KEY (model_id, epoch)
);

INSERT INTO unsealed_encodings (model_id, epoch, encoder, classes)
SELECT model_id, epoch, encoder, classes FROM versions WHERE weights_removed_at IS NULL;

ALTER TABLE versions DROP COLUMN encoder;
ALTER TABLE versions DROP COLUMN classes;
