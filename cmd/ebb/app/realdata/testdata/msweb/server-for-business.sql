-- The group server lies below two others.
SELECT visitor FROM about WHERE category = 'server' GROUP BY visitor HAVING count(*) >= 2
