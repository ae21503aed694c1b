SELECT visitor FROM bought
WHERE department IN ('produce', 'meat', 'deli', 'seafood', 'pastry', 'salad-bar') AND day > today() - 45
GROUP BY visitor HAVING count(DISTINCT day) BETWEEN 2 AND 3
