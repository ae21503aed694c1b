-- Complete Journey, from the raw files. Nothing here knows how Ebb keeps it.
--
-- Variables: today, and in_use, the sources that are not withdrawn.

CREATE MACRO today() AS getvariable('today');
-- An ID of what a shop calls a department or a category.
CREATE MACRO slug(s) AS trim(regexp_replace(lower(s), '[^a-z0-9]+', '-', 'g'), '-');

CREATE TABLE products AS
SELECT product_id, slug(department) AS department, slug(product_category) AS product_category, brand
FROM read_csv('products.csv', all_varchar = true, nullstr = 'NA');

-- The last day of the file is the day of the test.
CREATE TABLE purchases AS
WITH raw AS (
    SELECT household_id::INTEGER AS visitor, store_id::INTEGER AS store, product_id, sales_value::DOUBLE AS amount,
        CAST(transaction_timestamp AS TIMESTAMP)::DATE AS original
    FROM read_csv('transactions.csv', all_varchar = true)
)
SELECT row_number() OVER () AS id, visitor, amount, department, product_category, brand,
    CASE WHEN store % 2 = 1 THEN 'shop' ELSE 'outlet' END AS source,
    original + (today() - (SELECT max(original) FROM raw))::INTEGER AS day
FROM raw LEFT JOIN products USING (product_id);

-- Which category lies below which; a department's category is department.category.
CREATE TABLE below(child VARCHAR, parent VARCHAR);
INSERT INTO below VALUES
    ('grocery', 'food'), ('frozen-grocery', 'food'), ('frozen-grocery', 'frozen'), ('fresh', 'food'),
    ('produce', 'fresh'), ('meat', 'fresh'), ('deli', 'fresh'), ('seafood', 'fresh'), ('pastry', 'fresh'), ('salad-bar', 'fresh'),
    ('meat-pckgd', 'food'), ('seafood-pckgd', 'food'), ('spirits', 'food'), ('restaurant', 'food'),
    ('drug-gm', 'non-food'), ('cosmetics', 'non-food'), ('cosmetics', 'beauty'), ('nutrition', 'food'), ('nutrition', 'health'),
    ('floral', 'non-food'), ('garden-center', 'non-food');
INSERT INTO below SELECT DISTINCT department || '.' || product_category, department FROM products WHERE product_category IS NOT NULL;
INSERT INTO below
SELECT DISTINCT department || '.' || product_category, 'frozen' FROM products WHERE product_category LIKE 'frzn%' OR product_category LIKE 'frozen%';

-- Each category with itself and with everything above it.
CREATE TABLE within AS
WITH RECURSIVE up(category, above) AS (
    SELECT child, child FROM below
    UNION SELECT parent, parent FROM below
    UNION SELECT department, department FROM products WHERE department IS NOT NULL
    UNION SELECT category, parent FROM up JOIN below ON above = child
)
SELECT * FROM up;

-- What can be read today, and what each purchase is about, each thing once.
CREATE VIEW bought AS
SELECT * FROM purchases WHERE day > today() - 90 AND day <= today() AND list_contains(getvariable('in_use'), source);
CREATE VIEW about AS
SELECT DISTINCT b.*, above AS category
FROM bought b JOIN within w ON w.category = b.department OR w.category = b.department || '.' || b.product_category;

-- Demographics were stated on the day of the test. Whoever owns a home was put
-- on the list of owners, and whoever of these is married was taken off again.
CREATE TABLE households AS
SELECT household_id::INTEGER AS visitor, age, income, home_ownership, marital_status, kids_count
FROM read_csv('demographics.csv', all_varchar = true, nullstr = 'NA');
CREATE VIEW owners AS
SELECT visitor FROM households WHERE home_ownership = 'Homeowner' AND marital_status IS DISTINCT FROM 'Married';
