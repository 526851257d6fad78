-- A database of schema 1, as Now Serving wrote it before one row a people's line.
CREATE TABLE audit (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	line VARCHAR(64) NOT NULL,
	at FLOAT NOT NULL,
	who VARCHAR(64) NOT NULL,
	action VARCHAR(64) NOT NULL,
	number BIGINT,
	"before" TEXT NOT NULL,
	"after" TEXT NOT NULL,
	reason TEXT NOT NULL,
	address VARCHAR(64) NOT NULL
);
CREATE TABLE audit_outcome (
	audit_id INTEGER NOT NULL,
	outcome VARCHAR(64) NOT NULL,
	PRIMARY KEY (audit_id),
	FOREIGN KEY(audit_id) REFERENCES audit (id)
);
CREATE TABLE job (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	line VARCHAR(64) NOT NULL,
	state VARCHAR(16) NOT NULL,
	pri INTEGER NOT NULL,
	due FLOAT NOT NULL,
	holder VARCHAR(128),
	attempt INTEGER NOT NULL,
	fails INTEGER NOT NULL,
	"key" VARCHAR(128),
	live SMALLINT,
	expires FLOAT,
	task VARCHAR(64) NOT NULL,
	args JSON NOT NULL,
	sealed TEXT,
	step VARCHAR(32) NOT NULL,
	stop_asked BOOLEAN NOT NULL,
	result JSON,
	error TEXT,
	put_at FLOAT NOT NULL,
	taken_at FLOAT,
	done_at FLOAT,
	UNIQUE (line, "key", live)
);
INSERT INTO "job" VALUES(1,'desk','queued',1000,1.79526965426871418958e+09,NULL,0,0,'7-1',1,NULL,'look-up-phone','{"fields": {"account": "knolan"}}',NULL,'',0,NULL,NULL,1.79526965426871418958e+09,NULL,NULL);
CREATE TABLE job_line (
	name VARCHAR(64) NOT NULL,
	cap INTEGER NOT NULL,
	paused_reason TEXT,
	paused_until FLOAT,
	PRIMARY KEY (name)
);
INSERT INTO "job_line" VALUES('desk',2,NULL,NULL);
CREATE TABLE people_checkpoint (
	line VARCHAR(64) NOT NULL,
	version BIGINT NOT NULL,
	body BLOB,
	PRIMARY KEY (line)
);
INSERT INTO "people_checkpoint" VALUES('desk',7,X'726F73746572');
CREATE TABLE people_line (
	line VARCHAR(64) NOT NULL,
	high_water BIGINT NOT NULL,
	void_below BIGINT NOT NULL,
	generation VARCHAR(32) NOT NULL,
	base BIGINT NOT NULL,
	PRIMARY KEY (line)
);
INSERT INTO "people_line" VALUES('desk',42,3,'abababababababababababababababab',0);
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE tombstone (
	line VARCHAR(64) NOT NULL,
	number BIGINT NOT NULL,
	state VARCHAR(16) NOT NULL,
	at FLOAT NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (line, number)
);
INSERT INTO "tombstone" VALUES('desk',5,'left',100.0,'{}');
CREATE INDEX ix_tombstone_at ON tombstone (at);
CREATE INDEX ix_audit_line ON audit (line);
CREATE INDEX job_order ON job (line, state, pri, id);
CREATE INDEX job_by_key ON job (line, "key", id);
CREATE INDEX job_leases ON job (line, holder, due);
CREATE INDEX job_ended ON job (line, done_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('job',1);
