"""What lies in the PostgreSQL database: the tables, and the functions that judge and write.

Theory of operation
-------------------
A store is one schema (``convoca``, or another name), made on first use in one transaction under an
advisory lock that ends with it.  ``meta`` has one row, and **that row is the lock**: whoever writes
takes it first and holds it until the commit is done, so commits are made one after the other, in
the order of their revisions, and a snapshot that sees a revision sees all before it.  (A tailer
over numbers of a sequence, which are drawn before and become visible in any order, skipped 433 of
8,000 events.)

All that is done under the lock is one statement: a call of ``write``, which gets a batch of
requests as arrays, judges one after the other and returns rows.  It is its own transaction, so a
client that stops or dies holds nobody up, and a pooler may give each call another server
connection.  A request that is refused has changed nothing; there are no savepoints.

Each statement inside ``write`` sees what was committed before the lock was granted (READ
COMMITTED); under a stricter isolation level that somebody made the default, a wait for the lock
ends in a serialization failure instead, which is definite and tried again.

Whether a *range* is unchanged is read from the keys: ``keys`` has those that are there, with their
revisions, and ``gone`` those that were deleted, for as long as ``Unchanged`` may ask.  A range of
many keys of which few rows of history were written since is compared by those instead.

``meta.format`` is the version of the tables.  A function has the hash of all their texts in its
name, so programs of different versions of this library with the same tables use the same store at
the same time, each its own functions.

A row of a key has a checksum of all that it says, as in a file (``sqlite_schema.py``); PostgreSQL
has no CRC, so it is the beginning of a SHA-256.  Whoever reads the row computes it again.
"""

from __future__ import annotations

import hashlib
from typing import Final

from transactional.errors import DamagedRowError
from transactional.stores.leases import LEASES_MAX, LEASES_PER_ROLE_MAX
from transactional.stores.retention import MOMENTS_MAX, ROW_BYTES
from transactional.values import KeyValue

FORMAT: Final = 1
OWN: Final = -1
"""In the place of the revision inside a minted op_id: the op_id is a caller's own."""
FORGET_AFTER: Final = 64
"""So many rows of history are written before what is old is looked for again."""
LOOK_ROWS: Final = 500
"""So many rows are looked at, of a range and of the history since, before all of a range are."""
NOTIFY_US: Final = 5000
"""Shortest time between two notifications; who was told looks again after it."""
LIVES_APART: Final = 1 << 32
"""By how much the revision is raised when a life of the store ends."""

# --- what a request is, and an answer ------------------------------------------------------------

COMMIT, RESOLVE, GRANT, RENEW, REVOKE = range(5)
"""What a request asks for."""
COMPARE, WRITE, OTHERWISE = range(3)
"""Which list of a commit an entry belongs to."""
REVISION, EXISTS, ABSENT, VALUE, UNCHANGED, LEASE = range(6)
"""Kinds of compares."""
PUT, DELETE, DELETE_PREFIX = range(6, 9)
"""Kinds of writes."""
(
    STATE,
    APPLIED,
    REPLAYED,
    FENCED,
    REUSED,
    EXPIRED,
    UNBORN,
    DAMAGED,
    CONFLICT,
    CURRENT,
    NO_LEASE,
    LEASED,
    TOO_MANY,
    OTHER_LIFE,
) = range(14)
"""What a row of the answer says."""

TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS {S};
CREATE TABLE {S}.meta(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL,
    epoch text NOT NULL,
    revision bigint NOT NULL,       -- of the last commit
    compacted bigint NOT NULL,      -- floor of `history`: values up to here are forgotten
    indexed bigint NOT NULL,        -- floor of `gone`: which keys were deleted is forgotten as well
    resolvable bigint NOT NULL,     -- floor of `operations`: op_ids minted below it are forgotten
    time_us bigint NOT NULL,        -- business time of the last commit
    lease_us bigint NOT NULL,       -- the latest time of leases that anybody told
    rows bigint NOT NULL,           -- of `history`
    bytes bigint NOT NULL,          -- of the values in `history`
    added bigint NOT NULL,          -- rows since what is old was last looked for
    moment_us bigint NOT NULL,      -- when the last row of `moments` was written
    notified_us bigint NOT NULL     -- when watchers were last told, on the server's clock
) WITH (fillfactor = 10);
CREATE TABLE {S}.keys(
    key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, revision bigint NOT NULL,
    created bigint NOT NULL, lease text COLLATE "C",
    "by" text NOT NULL, time_us bigint NOT NULL, checksum bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX leased ON {S}.keys(lease) WHERE lease IS NOT NULL;
CREATE TABLE {S}.gone(              -- when a key was deleted last
    key text COLLATE "C" PRIMARY KEY, revision bigint NOT NULL
);
CREATE INDEX gone_by_revision ON {S}.gone(revision);
CREATE TABLE {S}.history(           -- one row per changed key; value NULL: deleted
    revision bigint NOT NULL, key text COLLATE "C" NOT NULL, value bytea, created bigint,
    lease text COLLATE "C", "by" text NOT NULL, time_us bigint NOT NULL, checksum bytea NOT NULL,
    PRIMARY KEY (revision, key)
);
CREATE TABLE {S}.operations(        -- content NULL: fenced
    name text COLLATE "C" PRIMARY KEY,
    minted bigint NOT NULL,         -- the revision inside a minted op_id, -1: a caller's own
    content bytea, revision bigint NOT NULL, succeeded boolean NOT NULL, time_us bigint NOT NULL,
    checksum bytea NOT NULL
);
CREATE INDEX minted ON {S}.operations(minted) WHERE minted >= 0;
CREATE INDEX own ON {S}.operations(time_us) WHERE minted < 0;
CREATE TABLE {S}.leases(
    lease text COLLATE "C" PRIMARY KEY, role text COLLATE "C" NOT NULL,
    ttl_s double precision NOT NULL, deadline_us bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX due ON {S}.leases(deadline_us);
CREATE INDEX of_role ON {S}.leases(role);
CREATE TABLE {S}.moments(           -- now and then: when which revision was the last
    revision bigint PRIMARY KEY, time_us bigint NOT NULL
);
INSERT INTO {S}.meta VALUES (true, {FORMAT}, substr(md5(gen_random_uuid()::text), 1, 8),
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
"""

# The checksums name each argument once, and are declared no better than what they are made of
# (`convert_to` is STABLE): only so are they put into the expression that asks for them, and are no
# statements of their own each time.
# A session plans each statement of a function once, and keeps the plan.  One that was made while
# the tables were small would read them from end to end when they are large.  Either took about as
# long as all the rest, with a few thousand rows.
PLANS: Final = "SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan"

# The arrays of `write`: a request i has its entries at first[i] .. first[i + 1] - 1.
FUNCTIONS: Final = """
CREATE FUNCTION {S}.row_checksum_{H}(revision bigint, key text, value bytea, created bigint,
    lease text, by_ text, time_us bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $body$
    SELECT substr(sha256(convert_to(revision || chr(31) || key || chr(31)
        || coalesce(created::text, '') || chr(31) || coalesce(lease, '') || chr(31) || by_
        || chr(31) || time_us || chr(31), 'UTF8') || coalesce(value, '')), 1, 8)
$body$;

CREATE FUNCTION {S}.operation_checksum_{H}(name text, minted bigint, content bytea,
    revision bigint, succeeded boolean, time_us bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $body$
    SELECT substr(sha256(convert_to(name || chr(31) || minted || chr(31) || revision || chr(31)
        || succeeded || chr(31) || time_us || chr(31)
        || coalesce('=' || encode(content, 'hex'), ''), 'UTF8')), 1, 8)
$body$;

CREATE FUNCTION {S}.clock_us_{H}() RETURNS bigint LANGUAGE sql VOLATILE AS $body$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$body$;

-- End a lease: its keys go, in the commit of revision p_revision; how many they were.
CREATE FUNCTION {S}.end_lease_{H}(p_lease text, p_revision bigint, p_time bigint) RETURNS bigint
LANGUAGE plpgsql AS $body$
DECLARE
    v_rows bigint;
BEGIN
    DELETE FROM {S}.leases WHERE lease = p_lease;
    WITH ended AS (DELETE FROM {S}.keys WHERE lease = p_lease RETURNING key),
    noted AS (INSERT INTO {S}.gone SELECT key, p_revision FROM ended
        ON CONFLICT (key) DO UPDATE SET revision = EXCLUDED.revision)
    INSERT INTO {S}.history SELECT p_revision, key, NULL, NULL, NULL, 'lease', p_time,
        {S}.row_checksum_{H}(p_revision, key, NULL, NULL, NULL, 'lease', p_time) FROM ended;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN v_rows;
END $body$;

-- Remove what is beyond the limits, and no more than p_most rows of each kind.
CREATE FUNCTION {S}.forget_{H}(m {S}.meta, p_limits bigint[], p_most bigint, p_slack boolean)
RETURNS {S}.meta LANGUAGE plpgsql AS $body$
DECLARE
    v_old bigint; v_over bigint; v_horizon bigint; v_end bigint; v_rows bigint; v_bytes bigint;
    v_spare bigint := 0; v_spare_bytes bigint := 0;
BEGIN
    -- p_limits: commits, bytes, and in microseconds: index, minted, own
    IF p_slack THEN
        v_spare := least(64, p_limits[1] / 8);
        v_spare_bytes := p_limits[2] / 64;
    END IF;
    IF m.time_us - m.moment_us >= greatest(p_limits[3], p_limits[4]) / {MOMENTS} THEN
        INSERT INTO {S}.moments VALUES (m.revision, m.time_us) ON CONFLICT DO NOTHING;
        m.moment_us := m.time_us;
        SELECT max(revision) INTO v_old FROM {S}.moments
            WHERE time_us <= m.time_us - greatest(p_limits[3], p_limits[4]);
        DELETE FROM {S}.moments WHERE revision < v_old;
    END IF;
    v_over := m.bytes + {ROW_BYTES} * m.rows - p_limits[2];
    v_horizon := m.revision - p_limits[1];
    IF m.rows > 0 AND (v_horizon - m.compacted > v_spare OR v_over > v_spare_bytes) THEN
        SELECT max(revision) INTO v_end FROM (
            SELECT revision, sum(size) OVER (ORDER BY revision, key) - size AS before FROM (
                SELECT revision, key, coalesce(octet_length(value), 0) + {ROW_BYTES} AS size
                FROM {S}.history ORDER BY revision, key LIMIT p_most) AS oldest) AS counted
            WHERE revision <= v_horizon OR before < v_over;
        IF v_end IS NOT NULL THEN
            WITH dropped AS (DELETE FROM {S}.history WHERE revision <= v_end RETURNING value)
            SELECT count(*), coalesce(sum(octet_length(value)), 0) INTO v_rows, v_bytes
                FROM dropped;
            m.rows := m.rows - v_rows;
            m.bytes := m.bytes - v_bytes;
            m.compacted := greatest(m.compacted, v_end);
        END IF;
    END IF;
    SELECT max(revision) INTO v_old FROM {S}.moments WHERE time_us <= m.time_us - p_limits[3];
    m.indexed := greatest(m.indexed, least(coalesce(v_old, 0), m.compacted));
    SELECT max(revision) INTO v_old FROM {S}.moments WHERE time_us <= m.time_us - p_limits[4];
    m.resolvable := greatest(m.resolvable, coalesce(v_old, 0));
    DELETE FROM {S}.gone WHERE key IN (SELECT key FROM {S}.gone WHERE revision <= m.indexed
        ORDER BY revision LIMIT p_most);
    DELETE FROM {S}.operations WHERE name IN (SELECT name FROM {S}.operations
        WHERE minted >= 0 AND minted < m.resolvable ORDER BY minted LIMIT p_most);
    DELETE FROM {S}.operations WHERE name IN (SELECT name FROM {S}.operations
        WHERE minted < 0 AND time_us < m.time_us - p_limits[5] ORDER BY time_us LIMIT p_most);
    m.added := 0;
    RETURN m;
END $body$;

-- Remove what is beyond the limits at once; how many rows of history went.
CREATE FUNCTION {S}.compact_{H}(p_limits bigint[], p_most bigint) RETURNS bigint
LANGUAGE plpgsql {PLANS} AS $body$
DECLARE
    m {S}.meta; v_before bigint;
BEGIN
    SELECT * INTO STRICT m FROM {S}.meta FOR NO KEY UPDATE;
    v_before := m.rows;
    m := {S}.forget_{H}(m, p_limits, p_most, false);
    UPDATE {S}.meta SET compacted = m.compacted, indexed = m.indexed, resolvable = m.resolvable,
        rows = m.rows, bytes = m.bytes, added = 0, moment_us = m.moment_us;
    RETURN v_before - m.rows;
END $body$;

-- End this life of the store: tokens, cursors and op_ids of it are refused from now on. The one
-- without a hash in its name is for operators.
CREATE OR REPLACE FUNCTION {S}.another_life() RETURNS text LANGUAGE sql AS $body$
    UPDATE {S}.meta SET epoch = substr(md5(gen_random_uuid()::text), 1, 8),
        revision = revision + {LIVES_APART} RETURNING epoch
$body$;

CREATE FUNCTION {S}.another_life_{H}(p_above bigint) RETURNS text LANGUAGE sql AS $body$
    UPDATE {S}.meta SET epoch = substr(md5(gen_random_uuid()::text), 1, 8),
        revision = greatest(revision, p_above) + {LIVES_APART} RETURNING epoch
$body$;

CREATE FUNCTION {S}.changed_{H}(m {S}.meta, p_prefix text, p_since bigint) RETURNS boolean
LANGUAGE plpgsql AS $body$
DECLARE
    v_end text := p_prefix || U&'\\+10FFFF'; v_rows bigint; v_changed boolean;
BEGIN
    IF p_since < m.indexed OR p_since > m.revision THEN
        RETURN true;
    END IF;
    SELECT count(*), max(revision) > p_since INTO v_rows, v_changed FROM (
        (SELECT revision FROM {S}.keys WHERE key >= p_prefix AND key < v_end LIMIT {LOOK_ROWS})
        UNION ALL
        (SELECT revision FROM {S}.gone WHERE key >= p_prefix AND key < v_end LIMIT {LOOK_ROWS})) f;
    IF v_changed OR v_rows < {LOOK_ROWS} THEN
        RETURN coalesce(v_changed, false);
    END IF;
    IF p_since >= m.compacted THEN
        SELECT count(*), bool_or(key >= p_prefix AND key < v_end) INTO v_rows, v_changed FROM (
            SELECT key FROM {S}.history WHERE revision > p_since LIMIT {LOOK_ROWS}) f;
        IF v_changed OR v_rows < {LOOK_ROWS} THEN
            RETURN coalesce(v_changed, false);
        END IF;
    END IF;
    RETURN EXISTS (SELECT FROM {S}.keys
            WHERE key >= p_prefix AND key < v_end AND revision > p_since)
        OR EXISTS (SELECT FROM {S}.gone
            WHERE key >= p_prefix AND key < v_end AND revision > p_since);
END $body$;

CREATE FUNCTION {S}.write_{H}(
    p_epoch text, p_seen bigint, p_now bigint, p_lease_now bigint, p_limits bigint[],
    r_kind smallint[], r_name text[], r_minted bigint[], r_content bytea[], r_by text[],
    r_ttl double precision[], r_first integer[],
    e_part smallint[], e_kind smallint[], e_key text[], e_value bytea[], e_number bigint[],
    e_lease text[], e_forget boolean[])
RETURNS TABLE (i integer, what smallint, revision bigint, time_us bigint, flag boolean,
    failed integer[], key text, value bytea, created bigint, lease text, "by" text,
    checksum bytea)
LANGUAGE plpgsql {PLANS} AS $body$
#variable_conflict use_column
DECLARE
    m {S}.meta; was {S}.meta; v_record {S}.operations; v_key {S}.keys; v_row record;
    v_clock bigint; v_lease text; v_rows bigint; v_changed bigint := 0;
    n integer; j integer; v_holds boolean; v_failed integer[];
    v_writes integer; v_otherwise integer; v_chosen integer; v_next integer; v_revision bigint;
    v_bytes bigint; v_end text;
BEGIN
    SELECT * INTO STRICT m FROM {S}.meta FOR NO KEY UPDATE;
    was := m;
    IF m.epoch <> p_epoch OR p_seen > m.revision THEN
        -- Whoever saw a later revision saw commits that this server has lost.
        i := 0; what := {OTHER_LIFE}; key := m.epoch;
        IF m.epoch = p_epoch THEN
            key := {S}.another_life_{H}(p_seen);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    v_clock := {S}.clock_us_{H}();
    m.lease_us := greatest(m.lease_us, p_lease_now);
    FOR v_lease IN SELECT l.lease FROM {S}.leases l WHERE l.deadline_us <= m.lease_us
            ORDER BY l.deadline_us LOOP
        m.time_us := greatest(p_now, m.time_us + 1);
        v_rows := {S}.end_lease_{H}(v_lease, m.revision + 1, m.time_us);
        IF v_rows > 0 THEN
            m.revision := m.revision + 1;
            v_changed := v_changed + v_rows;
        END IF;
    END LOOP;

    FOR n IN 1 .. coalesce(array_length(r_kind, 1), 0) LOOP
        i := n; what := NULL; revision := NULL; time_us := NULL; flag := NULL; failed := NULL;
        key := NULL; value := NULL; created := NULL; lease := NULL; "by" := NULL; checksum := NULL;

        -- leases
        IF r_kind[n] = {GRANT} THEN
            IF (SELECT count(*) >= {LEASES_MAX} FROM (SELECT FROM {S}.leases LIMIT {LEASES_MAX}) a)
                OR (r_by[n] <> '' AND (SELECT count(*) >= {LEASES_PER_ROLE_MAX}
                    FROM {S}.leases l WHERE l.role = r_by[n])) THEN
                what := {TOO_MANY};
            ELSE
                INSERT INTO {S}.leases VALUES (r_name[n], r_by[n], r_ttl[n],
                    m.lease_us + (r_ttl[n] * 1000000)::bigint);
                what := {LEASED};
            END IF;
            RETURN NEXT;
            CONTINUE;
        ELSIF r_kind[n] = {RENEW} THEN
            UPDATE {S}.leases l SET deadline_us = greatest(l.deadline_us,
                m.lease_us + (l.ttl_s * 1000000)::bigint) WHERE l.lease = r_name[n]
                RETURNING l.ttl_s INTO v_row;
            what := CASE WHEN FOUND THEN {LEASED} ELSE {NO_LEASE} END;
            IF FOUND THEN
                key := v_row.ttl_s;
            END IF;
            lease := r_name[n];
            RETURN NEXT;
            CONTINUE;
        ELSIF r_kind[n] = {REVOKE} THEN
            IF EXISTS (SELECT FROM {S}.leases l WHERE l.lease = r_name[n]) THEN
                m.time_us := greatest(p_now, m.time_us + 1);
                v_rows := {S}.end_lease_{H}(r_name[n], m.revision + 1, m.time_us);
                IF v_rows > 0 THEN
                    m.revision := m.revision + 1;
                    v_changed := v_changed + v_rows;
                END IF;
            END IF;
            what := {LEASED};
            RETURN NEXT;
            CONTINUE;
        END IF;

        -- what is known of the op_id
        IF r_minted[n] > m.revision THEN
            what := {UNBORN};
        ELSIF r_minted[n] >= 0 AND r_minted[n] < m.resolvable THEN
            what := {EXPIRED};
        END IF;
        IF what IS NOT NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT * INTO v_record FROM {S}.operations o WHERE o.name = r_name[n];
        IF FOUND AND NOT (v_record.minted < 0
                AND greatest(p_now, m.time_us) - v_record.time_us > p_limits[5]) THEN
            IF v_record.checksum <> {S}.operation_checksum_{H}(v_record.name, v_record.minted,
                    v_record.content, v_record.revision, v_record.succeeded, v_record.time_us) THEN
                what := {DAMAGED};
            ELSIF v_record.content IS NULL THEN
                what := {FENCED};
            ELSIF r_kind[n] = {COMMIT} AND v_record.content <> r_content[n] THEN
                what := {REUSED};
            ELSE
                what := {REPLAYED}; revision := v_record.revision; time_us := v_record.time_us;
                flag := v_record.succeeded; value := v_record.content;
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF r_kind[n] = {RESOLVE} THEN
            -- Counted as a revision, so that its record is later than the op_id's own revision.
            m.revision := m.revision + 1;
            m.time_us := greatest(p_now, m.time_us + 1);
            INSERT INTO {S}.operations VALUES (r_name[n], r_minted[n], NULL, m.revision, false,
                m.time_us, {S}.operation_checksum_{H}(r_name[n], r_minted[n], NULL, m.revision,
                false, m.time_us))
                ON CONFLICT (name) DO UPDATE SET content = NULL, revision = EXCLUDED.revision,
                    succeeded = false, time_us = EXCLUDED.time_us, checksum = EXCLUDED.checksum;
            what := {FENCED};
            RETURN NEXT;
            CONTINUE;
        END IF;

        -- the compares
        v_failed := '{}'; v_writes := 0; v_otherwise := 0;
        FOR j IN r_first[n] .. r_first[n + 1] - 1 LOOP
            IF e_part[j] = {WRITE} THEN
                v_writes := v_writes + 1;
                CONTINUE;
            ELSIF e_part[j] = {OTHERWISE} THEN
                v_otherwise := v_otherwise + 1;
                CONTINUE;
            END IF;
            CASE e_kind[j]
                WHEN {REVISION} THEN
                    v_holds := coalesce((SELECT k.revision FROM {S}.keys k
                        WHERE k.key = e_key[j]), 0) = e_number[j];
                WHEN {EXISTS} THEN
                    v_holds := EXISTS (SELECT FROM {S}.keys k WHERE k.key = e_key[j]);
                WHEN {ABSENT} THEN
                    v_holds := NOT EXISTS (SELECT FROM {S}.keys k WHERE k.key = e_key[j]);
                WHEN {VALUE} THEN
                    v_holds := EXISTS (SELECT FROM {S}.keys k
                        WHERE k.key = e_key[j] AND k.value = e_value[j]);
                WHEN {UNCHANGED} THEN
                    v_holds := NOT {S}.changed_{H}(m, e_key[j], e_number[j]);
                WHEN {LEASE} THEN
                    v_holds := EXISTS (SELECT FROM {S}.leases l WHERE l.lease = e_key[j]);
            END CASE;
            IF NOT v_holds THEN
                v_failed := v_failed || (j - r_first[n]);
            END IF;
        END LOOP;
        IF v_failed <> '{}' AND v_otherwise = 0 THEN
            what := {CONFLICT}; failed := v_failed; revision := m.revision;
            RETURN NEXT;
            what := {CURRENT}; failed := NULL;
            FOR v_key IN SELECT * FROM {S}.keys k WHERE k.key = ANY (
                    SELECT e_key[x] FROM generate_series(r_first[n], r_first[n + 1] - 1) x
                    WHERE e_part[x] = {COMPARE} AND e_kind[x] <= {VALUE}) LOOP
                key := v_key.key; value := v_key.value; revision := v_key.revision;
                created := v_key.created; lease := v_key.lease; "by" := v_key."by";
                time_us := v_key.time_us; checksum := v_key.checksum;
                RETURN NEXT;
            END LOOP;
            CONTINUE;
        END IF;
        v_chosen := CASE WHEN v_failed = '{}' THEN {WRITE} ELSE {OTHERWISE} END;
        FOR j IN r_first[n] .. r_first[n + 1] - 1 LOOP
            CONTINUE WHEN e_part[j] <> v_chosen OR e_lease[j] IS NULL;
            IF NOT EXISTS (SELECT FROM {S}.leases l WHERE l.lease = e_lease[j]) THEN
                what := {NO_LEASE}; lease := e_lease[j];
                EXIT;
            END IF;
        END LOOP;
        IF what IS NOT NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;

        -- the writes
        m.time_us := greatest(p_now, m.time_us + 1);
        IF (v_chosen = {WRITE} AND v_writes > 0) OR (v_chosen = {OTHERWISE} AND v_otherwise > 0)
                THEN
            v_revision := m.revision + 1; v_next := 0;
            FOR j IN r_first[n] .. r_first[n + 1] - 1 LOOP
                CONTINUE WHEN e_part[j] <> v_chosen;
                v_end := e_key[j] || U&'\\+10FFFF';
                IF e_forget[j] THEN
                    UPDATE {S}.history h SET value = coalesce(e_value[j], ''),
                        checksum = {S}.row_checksum_{H}(h.revision, h.key, coalesce(e_value[j], ''),
                            h.created, h.lease, h."by", h.time_us)
                        WHERE h.value IS NOT NULL AND CASE e_kind[j] WHEN {DELETE_PREFIX}
                            THEN h.key >= e_key[j] AND h.key < v_end ELSE h.key = e_key[j] END;
                    SELECT coalesce(sum(octet_length(h.value)), 0) INTO m.bytes FROM {S}.history h;
                END IF;
                IF e_kind[j] = {PUT} THEN
                    CONTINUE WHEN j < v_next;
                    v_next := j + 1;
                    WHILE v_next < r_first[n + 1] AND e_part[v_next] = v_chosen
                            AND e_kind[v_next] = {PUT} AND NOT e_forget[v_next] LOOP
                        v_next := v_next + 1;
                    END LOOP;
                    WITH put AS (SELECT e_key[x] AS key, e_value[x] AS value, e_lease[x] AS lease,
                            coalesce((SELECT k.created FROM {S}.keys k WHERE k.key = e_key[x]),
                                v_revision) AS created
                        FROM generate_series(j, v_next - 1) x OFFSET 0),
                    made AS (INSERT INTO {S}.keys SELECT key, value, v_revision, created, lease,
                            r_by[n], m.time_us, {S}.row_checksum_{H}(v_revision, key, value,
                            created, lease, r_by[n], m.time_us) FROM put
                        ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value,
                            revision = EXCLUDED.revision, lease = EXCLUDED.lease,
                            "by" = EXCLUDED."by", time_us = EXCLUDED.time_us,
                            checksum = EXCLUDED.checksum
                        RETURNING *),
                    noted AS (INSERT INTO {S}.history SELECT revision, key, value, created, lease,
                        "by", time_us, checksum FROM made RETURNING octet_length(value) AS size)
                    SELECT count(*), sum(size) INTO v_rows, v_bytes FROM noted;
                    v_changed := v_changed + v_rows;
                    m.bytes := m.bytes + v_bytes;
                ELSE
                    WITH deleted AS (DELETE FROM {S}.keys k WHERE CASE e_kind[j] WHEN {DELETE}
                        THEN k.key = e_key[j] ELSE k.key >= e_key[j] AND k.key < v_end END
                        RETURNING k.key),
                    noted AS (INSERT INTO {S}.gone SELECT d.key, v_revision FROM deleted d
                        ON CONFLICT (key) DO UPDATE SET revision = EXCLUDED.revision)
                    INSERT INTO {S}.history SELECT v_revision, d.key, NULL, NULL, NULL, r_by[n],
                        m.time_us, {S}.row_checksum_{H}(v_revision, d.key, NULL, NULL, NULL,
                        r_by[n], m.time_us) FROM deleted d;
                    GET DIAGNOSTICS v_rows = ROW_COUNT;
                    v_changed := v_changed + v_rows;
                END IF;
            END LOOP;
            m.revision := v_revision;
            checksum := {S}.operation_checksum_{H}(r_name[n], r_minted[n], r_content[n],
                m.revision, v_failed = '{}', m.time_us);
            INSERT INTO {S}.operations VALUES (r_name[n], r_minted[n], r_content[n], m.revision,
                v_failed = '{}', m.time_us, checksum)
                ON CONFLICT (name) DO UPDATE SET content = EXCLUDED.content,
                    revision = EXCLUDED.revision, succeeded = EXCLUDED.succeeded,
                    time_us = EXCLUDED.time_us, checksum = EXCLUDED.checksum;
        END IF;
        what := {APPLIED}; revision := m.revision; time_us := m.time_us; flag := v_failed = '{}';
        checksum := NULL;
        RETURN NEXT;
    END LOOP;

    m.rows := m.rows + v_changed;
    m.added := m.added + v_changed;
    IF m.added >= {FORGET_AFTER} THEN
        m := {S}.forget_{H}(m, p_limits, 2 * m.added + {FORGET_AFTER}, true);
    END IF;
    IF v_changed > 0 AND abs(v_clock - m.notified_us) >= {NOTIFY_US} THEN
        PERFORM pg_notify({CHANNEL}, m.revision::text);
        m.notified_us := v_clock;
    END IF;
    was.lease_us := m.lease_us;  -- by itself not worth a write
    IF m IS DISTINCT FROM was THEN
        UPDATE {S}.meta SET revision = m.revision, compacted = m.compacted, indexed = m.indexed,
            resolvable = m.resolvable, time_us = m.time_us, lease_us = m.lease_us,
            rows = m.rows, bytes = m.bytes, added = m.added,
            moment_us = m.moment_us, notified_us = m.notified_us;
    END IF;
    i := 0; what := {STATE}; revision := m.revision; time_us := m.time_us; flag := NULL;
    failed := NULL; key := m.epoch; value := NULL; "by" := NULL; checksum := NULL;
    created := v_clock; lease := m.lease_us;
    RETURN NEXT;
END $body$;
"""

WRITE_COLUMNS: Final = (
    "i, what, revision, time_us, flag, failed, key, value, created, lease, by, checksum"
)

# --- reading -------------------------------------------------------------------------------------

_STATE: Final = """m.epoch AS m_epoch, m.revision AS m_revision, m.compacted AS m_compacted,
    m.time_us AS m_time_us, m.lease_us AS m_lease_us,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS m_clock_us,
    (SELECT min(deadline_us) FROM {S}.leases) AS m_deadline_us"""
_ROW: Final = 'revision, key, value, created, lease, "by", time_us, checksum'

# Each returns one row at least, for what it says of `meta`: all of it belongs to one snapshot.
# Bytes are counted before they are fetched: rows behind the first that is too many are left out.
# The planner is told that `meta` has one row: it takes a table that it does not know for a large
# one, and would compile a statement of a millisecond for half a second.
_META: Final = "(SELECT * FROM {S}.meta LIMIT 1) m"
POINTS: Final = f"""SELECT {_STATE}, k.* FROM {_META} LEFT JOIN (
    SELECT {_ROW} FROM (SELECT {_ROW}, sum(octet_length(value)) OVER (ORDER BY key)
        - octet_length(value) AS before FROM {{S}}.keys WHERE key = ANY($1)) c
    WHERE before <= $2) k ON true ORDER BY k.key"""
# Range n of those that share the statement is $1[n] <= key < $3[n], behind $2[n], $4[n] rows.
RANGES: Final = f"""SELECT {_STATE}, k.* FROM {_META} LEFT JOIN (
    SELECT {_ROW}, n FROM (SELECT {_ROW}, n, sum(octet_length(value)) OVER (ORDER BY n, key)
        - octet_length(value) AS before
        FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
            WITH ORDINALITY r(first, behind, until, most, n)
        CROSS JOIN LATERAL (SELECT {_ROW} FROM {{S}}.keys
            WHERE key >= r.first AND key > r.behind AND key < r.until ORDER BY key LIMIT r.most) p
        ) c WHERE before <= $5) k ON true ORDER BY k.n, k.key"""
PAST: Final = f"""SELECT {_STATE}, k.* FROM {_META} LEFT JOIN (
    SELECT {_ROW}, more FROM (SELECT {_ROW}, lead(revision) OVER w IS NOT NULL AS more,
        sum(coalesce(octet_length(value), 0)) OVER w - coalesce(octet_length(value), 0) AS before
        FROM (SELECT {_ROW} FROM {{S}}.history WHERE revision > $1 AND key >= $2 AND key < $3
            ORDER BY revision, key LIMIT $4) p WINDOW w AS (ORDER BY revision, key)) c
    WHERE before <= $5) k ON true ORDER BY k.revision, k.key"""
PAST_COMMIT: Final = f"""SELECT {_STATE}, k.* FROM {_META} LEFT JOIN (
    SELECT {_ROW} FROM {{S}}.history
    WHERE revision = $1 AND key >= $2 AND key < $3) k ON true ORDER BY k.key"""
DAMAGED_ROWS: Final = """
SELECT 'keys' AS what, key FROM {S}.keys WHERE checksum <>
    {S}.row_checksum_{H}(revision, key, value, created, lease, "by", time_us)
UNION ALL SELECT 'history', key FROM {S}.history WHERE checksum <>
    {S}.row_checksum_{H}(revision, key, value, created, lease, "by", time_us)
UNION ALL SELECT 'operations', name FROM {S}.operations WHERE checksum <>
    {S}.operation_checksum_{H}(name, minted, content, revision, succeeded, time_us)
LIMIT 100
"""
SETTINGS: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names
"""
# By a look at the catalogue: `to_regclass` may remember that there was nothing of the name.
FOUND: Final = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = 'meta') AS made,
    EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = $1 AND p.proname = $2) AS taught
"""


class Statements:
    """The texts, for a store in one schema."""

    def __init__(self, schema: str) -> None:
        quoted = '"' + schema.replace('"', '""') + '"'
        self.schema = schema
        self.channel = f"convoca.{schema}"
        self._words = {
            "PLANS": PLANS,
            "MOMENTS": str(MOMENTS_MAX),
            "ROW_BYTES": str(ROW_BYTES),
            "LEASES_MAX": str(LEASES_MAX),
            "LEASES_PER_ROLE_MAX": str(LEASES_PER_ROLE_MAX),
            **{name: str(value) for name, value in globals().items() if type(value) is int},
        }
        self.hash = hashlib.sha256(self.of(TABLES + FUNCTIONS).encode()).hexdigest()[:8]
        self._words |= {
            "S": quoted,
            "H": self.hash,
            "CHANNEL": "'" + self.channel.replace("'", "''") + "'",
        }
        self.tables = self.of(TABLES)
        self.functions = self.of(FUNCTIONS)
        self.meta, self.leases = f"{quoted}.meta", f"{quoted}.leases"
        self.write_name = f"write_{self.hash}"
        places = ", ".join(f"${n}" for n in range(1, 20))
        self.write = f"SELECT * FROM {quoted}.{self.write_name}({places})"
        self.points, self.ranges = self.of(POINTS), self.of(RANGES)
        self.past, self.past_commit = self.of(PAST), self.of(PAST_COMMIT)
        self.damaged = self.of(DAMAGED_ROWS)
        self.compact = self.of("SELECT {S}.compact_{H}($1, $2)")

    def of(self, text: str) -> str:
        """Return a text with the names and numbers in the place of their words."""
        for word, meant in self._words.items():
            text = text.replace("{" + word + "}", meant)
        return text


def found_key(row: tuple[object, ...]) -> KeyValue:
    """Return a row of a key as a value.

    Raises:
        DamagedRowError: it is not what was written.
    """
    check_row(row)
    revision, key, value, created, lease, by, time_us, _ = row
    return KeyValue(key, value, revision, created, lease, by, time_us)  # type: ignore[arg-type]  # the columns' types


def check_row(row: tuple[object, ...]) -> None:
    """Raise DamagedRowError unless a row of ``keys`` or ``history`` is what was written."""
    revision, key, value, created, lease, by, time_us, checksum = row
    made = "" if created is None else created
    head = f"{revision}\x1f{key}\x1f{made}\x1f{lease or ''}\x1f{by}\x1f{time_us}\x1f"
    content = value if isinstance(value, bytes) else b""
    if hashlib.sha256(head.encode() + content).digest()[:8] != checksum:
        raise DamagedRowError(str(key), f"the row of {key!r} is not what was written")
