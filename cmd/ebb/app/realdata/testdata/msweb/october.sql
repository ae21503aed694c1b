-- The last days of a store key's quarter lie before.
SELECT visitor FROM about WHERE category = 'products' AND day BETWEEN DATE '2026-10-01' AND DATE '2026-10-31'
