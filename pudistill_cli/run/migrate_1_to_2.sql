-- Version 1 had rewrites as round -1 and the groups of claims as round 0, and no mark of why rounds ended.

DROP VIEW ranked_candidates;

CREATE TABLE candidates_2 (
    id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('round', 'rewrite', 'claims')),
    round INTEGER NOT NULL,
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    k INTEGER NOT NULL,
    tokens TEXT NOT NULL,
    text TEXT NOT NULL,
    finish TEXT NOT NULL CHECK (finish IN ('stop', 'length')),
    logprobs TEXT NOT NULL,
    UNIQUE (purpose, round, prompt_key, k),
    CHECK ((purpose = 'round') = (round > 0))
);
INSERT INTO candidates_2
SELECT id, CASE round WHEN -1 THEN 'rewrite' WHEN 0 THEN 'claims' ELSE 'round' END, max(round, 0),
       prompt_key, k, tokens, text, finish, logprobs
FROM candidates;
DROP TABLE candidates;
ALTER TABLE candidates_2 RENAME TO candidates;

CREATE TABLE anchor_scores_2 (
    purpose TEXT NOT NULL CHECK (purpose IN ('round', 'claims')),
    round INTEGER NOT NULL,
    prompt_key TEXT NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
    scorer TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (purpose, round, prompt_key, scorer)
) WITHOUT ROWID;
INSERT INTO anchor_scores_2
SELECT CASE round WHEN 0 THEN 'claims' ELSE 'round' END, round, prompt_key, scorer, score
FROM anchor_scores;
DROP TABLE anchor_scores;
ALTER TABLE anchor_scores_2 RENAME TO anchor_scores;

CREATE VIEW ranked_candidates AS
SELECT
    c.purpose, c.round, c.prompt_key, c.k, c.text, c.finish, s.scorer, s.score,
    rank() OVER (PARTITION BY c.purpose, c.round, c.prompt_key, s.scorer ORDER BY s.score DESC) AS place,
    json_extract(g.label, '$[' || c.k || ']') AS label,
    json_extract(g.advantage, '$[' || c.k || ']') AS advantage
FROM candidates AS c
JOIN scores AS s ON s.candidate_id = c.id
LEFT JOIN groups AS g ON g.round = c.round AND g.prompt_key = c.prompt_key;

-- The first of these that is there ended the rounds, after as many as were trained.
INSERT INTO stages (name, started, finished, detail)
WITH trained AS (
    SELECT count(*) AS n FROM stages WHERE name GLOB 'round-[0-9]*' AND name NOT LIKE '%/%' AND finished IS NOT NULL
),
causes AS (
    SELECT 1 AS place, finished, 'no scorer' AS reason, 'no scorer passed its gate' AS why
    FROM stages WHERE name = 'rank' AND json_array_length(detail, '$.passed') = 0
    UNION ALL
    SELECT 2, finished, 'dev', '2 in a row were worse than SFT on dev'
    FROM stages WHERE name = 'dev/stop' AND finished IS NOT NULL
    UNION ALL
    SELECT 3, finished, 'gate',
        (SELECT group_concat(value, ' and ') FROM (SELECT DISTINCT value FROM json_each(s.detail, '$.fell')))
        || ' fell below the gate on the candidates of round ' || (trained.n + 1)
    FROM stages AS s, trained
    WHERE name = 'gates/round-' || (trained.n + 1) AND json_array_length(detail, '$.fell') > 0
    UNION ALL
    SELECT 4, finished, json_extract(detail, '$.decision'),
        CASE json_extract(detail, '$.decision')
        WHEN 'too few' THEN 'too few of the candidates are as good as the anchors to start (prefer.prior_start)'
        WHEN 'nothing left' THEN
            'nearly all candidates are as good as the anchors, so nothing is left to rank (prefer.prior_stop)'
        ELSE 'no candidate came to an end (prefer.max_new_tokens)' END
    FROM stages, trained
    WHERE name = 'round-' || (trained.n + 1) || '/prior' AND json_extract(detail, '$.decision') <> 'train'
)
SELECT 'rounds-end', finished, finished, json_object('reason', reason, 'after', trained.n, 'why', why)
FROM causes, trained
ORDER BY place
LIMIT 1;
DELETE FROM stages WHERE name = 'dev/stop';

UPDATE stages
SET detail = json_set(json_remove(detail, '$.told'), '$.share_saved', json_extract(detail, '$.told'))
WHERE name = 'rewrites' AND json_extract(detail, '$.told') IS NOT NULL;
