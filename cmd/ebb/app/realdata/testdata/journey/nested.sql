SELECT visitor FROM bought WHERE department = 'grocery' AND day > today() - 30
INTERSECT SELECT visitor FROM about WHERE category = 'fresh'
