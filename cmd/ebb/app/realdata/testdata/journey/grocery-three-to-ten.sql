SELECT visitor FROM bought WHERE department = 'grocery' GROUP BY visitor HAVING count(*) BETWEEN 3 AND 10
