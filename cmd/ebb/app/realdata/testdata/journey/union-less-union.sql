(SELECT visitor FROM bought WHERE department = 'deli' AND day > today() - 30
 UNION SELECT visitor FROM bought WHERE department = 'pastry' AND day > today() - 14 GROUP BY visitor HAVING count(*) >= 2)
EXCEPT SELECT visitor FROM about WHERE category = 'non-food' AND day > today() - 14
