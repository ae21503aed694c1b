-- Also those who bought none, if they bought anything in the 90 days.
SELECT visitor FROM bought
GROUP BY visitor HAVING (SELECT count(DISTINCT id) FROM about a WHERE a.visitor = bought.visitor AND category = 'food' AND day > today() - 30) <= 2
