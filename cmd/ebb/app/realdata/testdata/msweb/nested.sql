(SELECT visitor FROM about WHERE category = 'office' EXCEPT SELECT visitor FROM about WHERE category = 'support')
INTERSECT SELECT visitor FROM seen WHERE area IN (1008, 1034, 1004, 1018, 1017)
