import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.util.ServerInfo;

/** Tomcat with the routes of ../spellings.go; /api is an application of its own. */
class Spellings {
  public static void main(String[] arguments) throws Exception {
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
    tomcat.setPort(0);
    tomcat.getConnector().setProperty("address", "127.0.0.1");
    Context root = tomcat.addContext("", null);
    add(root, "/beacon", "POST", "/beacon", null);
    add(root, "/pixel.gif", "GET", "/pixel.gif", null);
    add(root, "/patch", "PATCH", "/patch", null);
    add(root, "/a/*", "POST", "/a/*/b", "/[^/]+/b");
    add(root, "/t/keep", "POST", "/t/keep", null);
    add(root, "/t/*", "POST", "/t/*", "/.*");
    add(tomcat.addContext("/api", null), "/beacon", "POST", "/api/beacon", null);
    tomcat.start();
    System.out.println(
        "127.0.0.1:" + tomcat.getConnector().getLocalPort() + " " + ServerInfo.getServerInfo().replace("/", " "));
    tomcat.getServer().await();
  }

  private static void add(Context context, String pattern, String method, String route, String below) {
    Tomcat.addServlet(
        context,
        route,
        new HttpServlet() {
          @Override
          protected void service(HttpServletRequest request, HttpServletResponse response) {
            boolean takes = below == null || request.getPathInfo() != null && request.getPathInfo().matches(below);
            if (takes && request.getMethod().replace("HEAD", "GET").equals(method)) {
              response.setHeader("X-Took", route);
            } else {
              response.setStatus(404);
            }
          }
        });
    context.addServletMappingDecoded(pattern, route);
  }
}
