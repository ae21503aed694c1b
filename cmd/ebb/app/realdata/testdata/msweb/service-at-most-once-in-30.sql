SELECT visitor FROM seen
EXCEPT SELECT visitor FROM about WHERE category = 'service' AND day > today() - 30 GROUP BY visitor HAVING count(*) > 1
