SELECT visitor FROM bought WHERE department = 'grocery' GROUP BY visitor HAVING today() - max(day) BETWEEN 30 AND 89
