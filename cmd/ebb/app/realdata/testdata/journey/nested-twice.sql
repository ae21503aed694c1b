(SELECT visitor FROM bought WHERE department = 'grocery' AND day > today() - 30
 INTERSECT SELECT visitor FROM about WHERE category = 'fresh'
 INTERSECT SELECT visitor FROM about WHERE category = 'frozen' GROUP BY visitor HAVING count(DISTINCT id) >= 2)
UNION SELECT visitor FROM bought WHERE department = 'grocery' GROUP BY visitor HAVING today() - max(day) >= 30
