-- MSWeb, from the raw lines: areas of a site, and who saw which. Nothing here
-- knows how Ebb keeps it. The variable today is the day that is asked about.

CREATE MACRO today() AS getvariable('today');

CREATE TABLE areas AS SELECT area::INTEGER AS area, title, path FROM read_csv('areas.csv', all_varchar = true);

-- A visitor came on one day, counted back from the last by its number.
CREATE TABLE visits AS
SELECT visitor::INTEGER AS visitor, area::INTEGER AS area, DATE '2026-11-25' - (visitor::INTEGER % 90) AS day
FROM read_csv('visits.csv', all_varchar = true);

-- The operator's tree: groups by words in an area's title, and what is above
-- the groups. An area may be in several groups.
CREATE TABLE below(child VARCHAR, parent VARCHAR);
INSERT INTO below VALUES
    ('office', 'products'), ('windows', 'products'), ('server', 'products'), ('server', 'business'),
    ('support', 'help'), ('knowledge', 'help'), ('help', 'service'), ('download', 'service');
INSERT INTO below SELECT area::VARCHAR, 'office' FROM areas WHERE regexp_matches(title, 'Office|Excel|PowerPoint|MS Word|MS Access|Out[lL]ook');
INSERT INTO below SELECT area::VARCHAR, 'windows' FROM areas WHERE regexp_matches(title, 'Windows|NT Server|NT Workstation');
INSERT INTO below SELECT area::VARCHAR, 'server' FROM areas WHERE regexp_matches(title, 'Server|BackOffice|SQL');
INSERT INTO below SELECT area::VARCHAR, 'support' FROM areas WHERE title LIKE '%Support%';
INSERT INTO below SELECT area::VARCHAR, 'knowledge' FROM areas WHERE title IN ('Knowledge Base', 'TechNet (World Wide Web Edition)');
INSERT INTO below SELECT area::VARCHAR, 'developer' FROM areas WHERE title LIKE '%Develop%' OR title LIKE '%Visual%';
INSERT INTO below SELECT area::VARCHAR, 'download' FROM areas WHERE title LIKE '%ownload%';

CREATE TABLE within AS
WITH RECURSIVE up(category, above) AS (
    SELECT area::VARCHAR, area::VARCHAR FROM areas
    UNION SELECT category, parent FROM up JOIN below ON above = child
)
SELECT * FROM up;

-- Each view of an area with the area and all that is above it, each once.
CREATE TABLE views AS
SELECT visitor, area, day, above AS category FROM visits JOIN within ON category = area::VARCHAR;

-- What can be read on the day that is asked about.
CREATE VIEW seen AS SELECT visitor, area, path, day FROM visits JOIN areas USING (area) WHERE day > today() - 90 AND day <= today();
CREATE VIEW about AS SELECT * FROM views WHERE day > today() - 90 AND day <= today();
