-- Through one or two steps of the tree.
SELECT visitor FROM about WHERE category = 'food' GROUP BY visitor HAVING count(DISTINCT day) >= 4
