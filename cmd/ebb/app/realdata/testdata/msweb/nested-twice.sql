(((SELECT visitor FROM about WHERE category = 'office' EXCEPT SELECT visitor FROM about WHERE category = 'support')
  INTERSECT SELECT visitor FROM seen WHERE area IN (1008, 1034, 1004, 1018, 1017))
 EXCEPT SELECT visitor FROM seen WHERE day > today() - 7)
UNION SELECT visitor FROM about WHERE category = 'server' GROUP BY visitor HAVING count(*) >= 2
