-- The ledger of a run, schema version 3. Documented in docs/ledger.md, with queries.
-- Columns marked JSON hold arrays or objects for json_each and json_extract.

CREATE TABLE prompts (
    key TEXT PRIMARY KEY,               -- content hash: blake2b-128 in hex
    split TEXT NOT NULL,                -- train, dev, test, or a further test set
    messages TEXT NOT NULL,             -- JSON: [{"role": ..., "content": ...}, ...]
    reference TEXT,                     -- what eval.metric compares with; never trained on
    source TEXT NOT NULL,               -- file
    line INTEGER NOT NULL               -- of the file, from 1
) WITHOUT ROWID;

CREATE TABLE anchors (
    prompt_key TEXT PRIMARY KEY REFERENCES prompts (key) ON DELETE CASCADE,
    text TEXT NOT NULL,                 -- without reasoning
    tokens TEXT,                        -- JSON: the student's ids, end of turn last; NULL where it is not used
    status TEXT NOT NULL CHECK (status IN ('ok', 'refused', 'empty', 'truncated', 'error')),
    finish_reason TEXT NOT NULL,        -- as the teacher gave it
    reasoning_stripped INTEGER NOT NULL CHECK (reasoning_stripped IN (0, 1)),
    teacher TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,     -- by the teacher's own count
    completion_tokens INTEGER NOT NULL,
    detail TEXT NOT NULL                -- why the status is what it is
) WITHOUT ROWID;

CREATE TABLE candidates (
    id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('round', 'rewrite', 'claims')),  -- what it was drawn for
    round INTEGER NOT NULL,             -- from 1; 0 where the purpose is no round
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    k INTEGER NOT NULL,                 -- from 0
    tokens TEXT NOT NULL,               -- JSON: ids as drawn
    text TEXT NOT NULL,
    finish TEXT NOT NULL CHECK (finish IN ('stop', 'length')),
    logprobs TEXT NOT NULL,             -- JSON: of each token when it was drawn, in nats
    UNIQUE (purpose, round, prompt_key, k),
    CHECK ((purpose = 'round') = (round > 0))
);

CREATE TABLE scores (
    candidate_id INTEGER NOT NULL REFERENCES candidates (id) ON DELETE CASCADE,
    scorer TEXT NOT NULL,
    score REAL NOT NULL,                -- higher is better
    PRIMARY KEY (candidate_id, scorer)
) WITHOUT ROWID;

CREATE TABLE anchor_scores (
    purpose TEXT NOT NULL CHECK (purpose IN ('round', 'claims')),  -- of the candidates beside it
    round INTEGER NOT NULL,             -- as theirs
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    scorer TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (purpose, round, prompt_key, scorer)
) WITHOUT ROWID;

CREATE TABLE groups (
    round INTEGER NOT NULL,
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    scorer TEXT NOT NULL,               -- whose scores became these preferences
    scale REAL NOT NULL,                -- advantage = (score - mean) / scale
    member TEXT NOT NULL,               -- JSON, one entry a row, the anchor last: its weight, 0 where it takes no part
    label TEXT NOT NULL,                -- JSON, likewise: the label distribution
    advantage TEXT NOT NULL,            -- JSON, likewise: centred and scaled scores
    pairs TEXT NOT NULL,                -- JSON: [{"chosen": i, "rejected": j, "smoothing": s}, ...], same places
    PRIMARY KEY (round, prompt_key)
) WITHOUT ROWID;

CREATE TABLE metrics (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,             -- 0 outside the rounds
    step INTEGER NOT NULL,              -- of the stage, from 0
    name TEXT NOT NULL,
    value REAL,                         -- NULL where it is not defined
    low REAL,                           -- 95 % interval, where there is one
    high REAL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (stage, round, step, name)
);

CREATE TABLE stages (
    name TEXT PRIMARY KEY,              -- a mark (run/marks.py): sft, round-1, dev/round-1, eval, export/hf, ...
    started TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    finished TEXT,                      -- NULL: it is done again whole
    detail TEXT                         -- JSON: what the stage ended with
) WITHOUT ROWID;

CREATE TABLE eval_answers (
    system TEXT NOT NULL,
    split TEXT NOT NULL,
    temperature REAL NOT NULL,          -- 0 is greedy
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    sample INTEGER NOT NULL,            -- from 0
    text TEXT NOT NULL,
    tokens TEXT NOT NULL,               -- JSON: ids as drawn
    finish TEXT NOT NULL CHECK (finish IN ('stop', 'length')),
    score REAL,                         -- by eval.metric; NULL without one
    UNIQUE (system, split, temperature, prompt_key, sample)
);

CREATE TABLE sums (
    name TEXT NOT NULL,                 -- what is kept, below the run's folder: adapters/sft, state/round-1, export/hf
    file TEXT NOT NULL,                 -- in it, with / between the parts; '' where it is a file itself
    sha256 TEXT NOT NULL,               -- of the file, in hex
    PRIMARY KEY (name, file)
) WITHOUT ROWID;

-- Every score of a candidate, and the preference that the update learned from; place 1 is the scorer's favourite of its group.
CREATE VIEW ranked_candidates AS
SELECT
    c.purpose, c.round, c.prompt_key, c.k, c.text, c.finish, s.scorer, s.score,
    rank() OVER (PARTITION BY c.purpose, c.round, c.prompt_key, s.scorer ORDER BY s.score DESC) AS place,
    json_extract(g.label, '$[' || c.k || ']') AS label,
    json_extract(g.advantage, '$[' || c.k || ']') AS advantage
FROM candidates AS c
JOIN scores AS s ON s.candidate_id = c.id
LEFT JOIN groups AS g ON g.round = c.round AND g.prompt_key = c.prompt_key;
