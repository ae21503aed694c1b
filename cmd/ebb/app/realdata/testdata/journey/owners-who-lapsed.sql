SELECT visitor FROM owners
INTERSECT SELECT visitor FROM bought GROUP BY visitor HAVING today() - max(day) >= 14
INTERSECT SELECT visitor FROM about WHERE category = 'food'
