SELECT visitor FROM about WHERE category IN ('help', 'download') AND day > today() - 90
INTERSECT SELECT visitor FROM seen WHERE day > today() - 45
